"""Adding created_at to posts

The newest posts are to be shown first. Posts from before we kept time get the first moment of 1970: a moment that no
post can have been written at, and so never taken for a real one.

Revision ID: 0003
Revises: 0002

"""
from datetime import datetime

from alembic import op
import sqlalchemy as sa


# revision identifiers, used by Alembic.
revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

post = sa.table('post', sa.column('created_at', sa.DateTime()))


def upgrade():
    with op.batch_alter_table('post', schema=None) as batch_op:
        batch_op.add_column(sa.Column('created_at', sa.DateTime(), nullable=True))

    op.execute(post.update().where(post.c.created_at.is_(None)).values(created_at=datetime(1970, 1, 1)))

    with op.batch_alter_table('post', schema=None) as batch_op:
        batch_op.alter_column('created_at', existing_type=sa.DateTime(), nullable=False)


def downgrade():
    with op.batch_alter_table('post', schema=None) as batch_op:
        batch_op.drop_column('created_at')
